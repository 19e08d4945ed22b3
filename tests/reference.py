"""The networks of the papers once more, written apart from the package, in plain tf.nn operations.

Every padding is explicit and every convolution VALID. Reads weights by the layer names of the package,
and nothing else of it. Pre-activation as in the appendix of He et al. 2016, fb.resnet.torch (preresnet.lua, types
"no_preact" and "both_preact") and KaimingHe/resnet-1k-layers (resnet-pre-act.lua), or as in timm (resnetv2.py).
"""

import tensorflow as tf

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Reference:
    """Runs a network by its name with the weights {path: array}.

    `graph` is "paper" or, of pre-activation networks, "timm"; `pad` says where shortcut A puts its zero channels.
    """

    def __init__(self, weights, graph="paper", pad="behind"):
        self.weights, self.graph, self.pad = weights, graph, pad

    def conv(self, x, name, stride=1):
        kernel = self.weights[f"{name}/kernel"]
        pad = kernel.shape[0] // 2
        x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        return tf.nn.conv2d(x, kernel, stride, "VALID")

    def bn(self, x, name):
        gamma, beta, mean, variance = (
            self.weights[f"{name}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (x - mean) / tf.sqrt(variance + 1e-5) * gamma + beta

    def bn_relu(self, x, name):
        return tf.nn.relu(self.bn(x, name))

    def shortcut(self, x, name, option, letter, stride, width):
        changes = stride > 1 or x.shape[-1] != width
        if option != "C" and not changes:
            return x
        if option == "A":
            more = width - x.shape[-1]
            before = more // 2 if self.pad == "both" else 0
            return tf.pad(x[:, ::stride, ::stride], [[0, 0]] * 3 + [[before, more - before]])
        if letter == "v1d" and stride > 1:
            # Sums of the pixels that there are, over their number.
            height, wide = x.shape[1] % 2, x.shape[2] % 2
            padded = tf.pad(x, [[0, 0], [0, height], [0, wide], [0, 0]])
            ones = tf.pad(tf.ones_like(x), [[0, 0], [0, height], [0, wide], [0, 0]])

            def quads(t):
                return t[:, ::2, ::2] + t[:, 1::2, ::2] + t[:, ::2, 1::2] + t[:, 1::2, 1::2]

            x, stride = quads(padded) / quads(ones), 1
        x = self.conv(x, f"{name}_shortcut_conv", stride)
        return x if letter == "v2" else self.bn(x, f"{name}_shortcut_bn")

    def block(self, x, name, bottleneck, option, letter, stride, filters):
        width = filters * (4 if bottleneck else 1)
        strides = [stride, 1]
        if bottleneck:
            early = letter == "v1" or (letter == "v2" and self.graph == "paper" and self.small)
            strides = [stride, 1, 1] if early else [1, stride, 1]
        if letter == "v2":
            if name == "stage1_block1" and self.graph == "paper":
                x = self.bn_relu(x, f"{name}_bn1")  # once, before the paths part
                y = self.conv(x, f"{name}_conv1", strides[0])
                for index, step in enumerate(strides[1:], start=2):
                    y = self.conv(self.bn_relu(y, f"{name}_bn{index}"), f"{name}_conv{index}", step)
                return y + self.shortcut(x, name, option, letter, stride, width)
            y, first = x, None
            for index, step in enumerate(strides, start=1):
                y = self.bn_relu(y, f"{name}_bn{index}")
                first = y if index == 1 else first
                y = self.conv(y, f"{name}_conv{index}", step)
            same = stride == 1 and x.shape[-1] == width and option != "C"
            return y + (x if same else self.shortcut(first, name, option, letter, stride, width))
        y = x
        for index, step in enumerate(strides, start=1):
            y = self.bn(self.conv(y, f"{name}_conv{index}", step), f"{name}_bn{index}")
            if index < len(strides):
                y = tf.nn.relu(y)
        if option != "none":
            y = y + self.shortcut(x, name, option, letter, stride, width)
        return tf.nn.relu(y)

    def imagenet(self, x, depth, letter, option="B"):
        self.small = False
        if letter in ("v1c", "v1d"):
            x = self.bn_relu(self.conv(x, "stem_conv1", 2), "stem_bn1")
            x = self.bn_relu(self.conv(x, "stem_conv2"), "stem_bn2")
            x = self.bn_relu(self.conv(x, "stem_conv3"), "stem_bn3")
        else:
            x = self.conv(x, "stem_conv", 2)
            x = x if letter == "v2" else self.bn_relu(x, "stem_bn")
        x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=-1e30)
        x = tf.nn.max_pool2d(x, 3, 2, "VALID")
        return self.stages(x, BLOCKS[depth], (64, 128, 256, 512), depth >= 50, option, letter)

    def cifar(self, x, n, letter, option, bottleneck=False):
        self.small = True
        x = self.conv(x, "stem_conv")
        x = x if letter == "v2" else self.bn_relu(x, "stem_bn")
        return self.stages(x, (n, n, n), (16, 32, 64), bottleneck, option, letter)

    def stages(self, x, blocks, widths, bottleneck, option, letter):
        for stage, (count, filters) in enumerate(zip(blocks, widths, strict=True), start=1):
            for index in range(1, count + 1):
                stride = 2 if stage > 1 and index == 1 else 1
                x = self.block(x, f"stage{stage}_block{index}", bottleneck, option, letter, stride, filters)
        if letter == "v2":
            x = self.bn_relu(x, "head_bn")
        x = tf.reduce_mean(x, [1, 2])
        return x @ self.weights["logits/kernel"] + self.weights["logits/bias"]
