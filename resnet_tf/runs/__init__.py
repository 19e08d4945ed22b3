"""A run on disk and on its devices: folder, manifest, checkpoints, network, replicas, versions of its exports."""
