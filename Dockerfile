# CPU image whose entry point is resprune:
#   docker build -t resprune .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" resprune prune ckpt.pth --tol 1e-3 --data images --out pruned
# For a GPU, on any image with CUDA that has Python 3.11 or newer, or Debian's or Ubuntu's packages of it:
#   docker build -t resprune:cuda --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 \
#     --build-arg TORCH_INDEX=https://pypi.org/simple .
#   docker run --gpus all ... resprune:cuda ...
# Other extras than ONNX files and HTML reports: --build-arg EXTRAS=onnx,report,hf,data
ARG BASE=python:3.12-slim
FROM ${BASE}

# CUDA's own images bring no Python.
RUN command -v python3 >/dev/null || { apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*; }

# An environment of its own, since distributions guard theirs; a torch that the base brings is seen and kept.
RUN python3 -m venv --system-site-packages /opt/resprune
ENV PATH=/opt/resprune/bin:${PATH}

# PyTorch's own CPU builds spare some 5 GB; PyPI's are those with CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" "torch>=2.10" "torchvision>=0.25"

ARG EXTRAS=onnx,report
COPY pyproject.toml README.md LICENSE /src/
COPY resprune /src/resprune
# The last command is a trial: builds of torch and torchvision that do not fit end here, and not at the user's.
RUN pip install --no-cache-dir "/src[${EXTRAS}]" && rm -rf /src && resprune inspect demo --check

# Not root; with --user any other, whose home would not be there to write caches to.
RUN useradd --create-home resprune
ENV HOME=/tmp
USER resprune
WORKDIR /work
ENTRYPOINT ["resprune"]
CMD ["--help"]
