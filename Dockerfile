# Training on NVIDIA GPUs. This file was checked by hadolint, but not built, since no Docker was at hand. The base image
# has no CUDA: TensorFlow's extra and-cuda brings it, and the host needs a driver and the NVIDIA Container Toolkit.
#
#   docker build --build-arg USER_ID="$(id -u)" --build-arg COMMIT="$(git rev-parse --short=12 HEAD)" -t resnet_tf .
#   docker run --rm --gpus=all -v "$PWD:/work" resnet_tf train --recipe=photos --data_dir=photos
#
# The container sees the folder that is mounted at /work, and writes runs into it as the user USER_ID.
# docker/constraints.txt pins every package.
FROM python:3.12.11-slim-bookworm

ARG USER_ID=1000
RUN useradd --no-log-init --create-home --uid "$USER_ID" trainer

WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE docker/constraints.txt ./
COPY flags flags
COPY results/zoo.csv results/zoo.csv
COPY resnet_tf resnet_tf
RUN pip install --no-cache-dir --constraint=constraints.txt '.[gpu,convert,demo,detect,heic,plot,serve]'

# Manifests and results name the commit, which a copy without git cannot find out.
ARG COMMIT=
ENV RESNET_TF_COMMIT=$COMMIT

USER $USER_ID
WORKDIR /work
ENTRYPOINT ["resnet-tf"]
CMD ["--help"]
