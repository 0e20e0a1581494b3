# CPU image whose entry point is resprune:
#   docker build -t resprune .
#   docker run --rm -v "$PWD:/work" resprune prune ckpt.pth --tol 1e-3 --data images --out pruned
ARG BASE=python:3.12-slim
FROM ${BASE}

# PyTorch's own CPU builds spare some 5 GB. With --build-arg TORCH_INDEX=https://pypi.org/simple the CUDA
# builds are taken; BASE may be any image with Python 3.11 or newer and pip.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python3 -m pip install --no-cache-dir --index-url "${TORCH_INDEX}" "torch>=2.10" "torchvision>=0.25"

COPY pyproject.toml README.md LICENSE /src/
COPY resprune /src/resprune
RUN python3 -m pip install --no-cache-dir /src && rm -rf /src

RUN useradd --create-home --uid 1000 resprune
USER resprune
WORKDIR /work
ENTRYPOINT ["resprune"]
CMD ["--help"]
