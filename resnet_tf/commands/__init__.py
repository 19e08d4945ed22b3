"""The commands, one module each: read flags, call the library, print JSON. `resnet_tf.train` is `commands.train`."""
