"""Runs on disk and on devices: folders, manifests, checkpoints, networks, replicas and numbered model versions."""
