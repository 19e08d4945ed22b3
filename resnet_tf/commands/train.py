"""Train a network: `python -m resnet_tf.train --flagfile=flags/NAME.cfg --data_dir=...`."""

import sys

from resnet_tf import command, config

main = command.entry(
    "Train a network to classify images, evaluate it, and save the run to a folder.",
    config.TrainConfig,
    command.train,
    examples=(
        "train --recipe=photos --data_dir=photos   # CLASS/IMAGE; chooses what is not set",
        "train --recipe=cifar10_resnet20 --data_dir=cifar-10-python.tar.gz --seed=1",
        "train --model=resnet50_v1b --init_from=RUN --dataset=folder --data_dir=photos --view=random_resized_crop "
        "--image_size=224 --train_epochs=20",
    ),
)

if __name__ == "__main__":
    sys.exit(main())
