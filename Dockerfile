# docker build --build-arg TORCH=cpu -t propainter-bench .
# docker run --rm -v "$PWD:/data" -v propainter-weights:/weights propainter-bench \
#     data=video data.video=clip.mp4 data.masks=mask.png preset=fast measure=none
# With a GPU: --build-arg TORCH=cu132 and docker run --gpus all. --build-arg USER_ID=$(id -u) makes the results yours.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

# cpu, or a CUDA version that PyTorch has wheels for, such as cu132.
ARG TORCH=cpu
ARG UV=0.13.9
ARG USER_ID=1000

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# A C++ compiler is what compile=default needs on a CPU, and Triton on a GPU.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid "${USER_ID}" inpaint \
    && install --directory --owner inpaint /weights /data /cache

WORKDIR /opt/propainter-bench
COPY pyproject.toml setup.py constraints.txt README.md LICENSE run.py ./
COPY propainter propainter
COPY variants variants
COPY experiments experiments
COPY analysis analysis
COPY conf conf
# uv knows where PyTorch's wheels for each backend are.
RUN pip install --no-cache-dir "uv==${UV}" \
    && uv pip install --system --no-cache --torch-backend "${TORCH}" --constraint constraints.txt --editable .

ENV PROPAINTER_WEIGHTS=/weights TORCH_HOME=/weights PROPAINTER_BENCH_CACHE=/cache
VOLUME ["/weights", "/cache"]
USER ${USER_ID}
WORKDIR /data
ENTRYPOINT ["python", "/opt/propainter-bench/run.py"]
