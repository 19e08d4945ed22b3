"""`python -m resnet_tf.models [PATTERN]`: the command lies beside the others, in commands/list_networks.py."""

import runpy

runpy.run_module("resnet_tf.list_networks", run_name="__main__", alter_sys=True)
