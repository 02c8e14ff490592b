# pathotune for clusters, on processors alone; built from the top of the repository:
#   docker build -f containers/cpu.Dockerfile -t pathotune:cpu .
#   docker run --rm -v "$PWD:/data" -w /data pathotune:cpu predict slides/ --recursive --tuning T.pathotune.safetensors --out results
# With Apptainer: apptainer build pathotune.sif docker-daemon://pathotune:cpu
FROM python:3.12-slim-bookworm AS build
COPY . /source
RUN python -m venv /opt/pathotune \
    && /opt/pathotune/bin/pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch torchvision \
    && /opt/pathotune/bin/pip install --no-cache-dir "/source[text,openclip,omics,survival,cluster]"

FROM python:3.12-slim-bookworm
COPY --from=build /opt/pathotune /opt/pathotune
# Nobody is root in it, and what is downloaded goes into a folder that can be mounted.
RUN useradd --create-home --uid 1000 pathotune
USER pathotune
ENV PATH="/opt/pathotune/bin:$PATH" PYTHONUTF8=1 PATHOTUNE_CACHE=/home/pathotune/cache HF_HOME=/home/pathotune/cache/hub
ENTRYPOINT ["pathotune"]
CMD ["doctor"]
