"""Other tasks on the backbones."""
