"""One module a command: flags in, library called, JSON out. `resnet_tf.train` is `resnet_tf.commands.train`."""
