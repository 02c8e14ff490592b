# pathotune for clusters with NVIDIA cards; torch brings its own CUDA, so the host needs the driver alone:
#   docker build -f containers/cuda.Dockerfile -t pathotune:cuda .
#   docker run --rm --gpus all -v "$PWD:/data" -w /data pathotune:cuda predict slides/ --recursive --tuning T.pathotune.safetensors --out results
# With Apptainer: apptainer exec --nv pathotune.sif pathotune doctor
FROM python:3.12-slim-bookworm AS build
COPY . /source
RUN python -m venv /opt/pathotune \
    && /opt/pathotune/bin/pip install --no-cache-dir "/source[text,openclip,omics,survival,cluster]"

FROM python:3.12-slim-bookworm
COPY --from=build /opt/pathotune /opt/pathotune
RUN useradd --create-home --uid 1000 pathotune
USER pathotune
ENV PATH="/opt/pathotune/bin:$PATH" PYTHONUTF8=1 PATHOTUNE_CACHE=/home/pathotune/cache HF_HOME=/home/pathotune/cache/hub
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["pathotune"]
CMD ["doctor"]
