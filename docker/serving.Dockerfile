# TensorFlow Serving with an exported model inside. This file was checked by hadolint, but not built, since no Docker
# was at hand; docs/serving.md says what was tested without the server.
#
#   python -m resnet_tf.export --run=runs/first --out=model
#   docker build -f docker/serving.Dockerfile --build-arg MODEL=model -t resnet_serving .
#   docker run --rm -p 8500:8500 -p 8501:8501 resnet_serving
#
# MODEL is the folder of versions, in the folder that is built from and outside runs/, which .dockerignore leaves out.
# For batching, which suits GPUs and clients that send no bad images, append to the last command
# --enable_batching --batching_parameters_file=/config/batching.config
FROM tensorflow/serving:2.21.0

ARG MODEL=model
# A user who is not root: the server only reads files, and opens ports above 1024.
COPY --chown=65534:65534 flags/serving /config
COPY --chown=65534:65534 $MODEL /models/resnet
USER 65534:65534
EXPOSE 8500 8501
ENTRYPOINT ["tensorflow_model_server", "--port=8500", "--rest_api_port=8501", \
    "--model_config_file=/config/models.config", "--monitoring_config_file=/config/monitoring.config"]
