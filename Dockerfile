# The pipeline in a container: docs/running.md#in-a-container.
#   docker build -t kafnets .                                       for CPUs
#   docker build -t kafnets:cuda --build-arg DEVICE=cuda .          for NVIDIA GPUs
# TORCH_INDEX, an index that has CPU builds of torch (as for make), spares an image for CPUs the 4 GB of CUDA.
ARG PYTHON=3.12-slim

FROM python:${PYTHON} AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ make && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/kafnets
COPY Makefile requirements.txt requirements.lock ./
ARG TORCH_INDEX=""
RUN PIP_NO_CACHE_DIR=1 make venv VENV=/opt/venv ${TORCH_INDEX:+TORCH_INDEX="$TORCH_INDEX"}
COPY . .
# what is compiled on first use, for several kinds of processors: the image below has no C++ compiler
RUN KAFNETS_CACHE=/opt/compiled PYTHONPATH=workflow/scripts /opt/venv/bin/python -m kafnets.runtime.compiled
# the library as a command, which stands beside the other programs of the environment
RUN printf '#!/bin/sh\nPYTHONPATH=/opt/kafnets/workflow/scripts${PYTHONPATH:+:$PYTHONPATH} exec /opt/venv/bin/python -m kafnets "$@"\n' \
    > /opt/venv/bin/kafnets && chmod 755 /opt/venv/bin/kafnets

FROM python:${PYTHON}
ARG DEVICE=cpu
# OpenMP for the compiled code, git for a record's commit; Triton compiles its launchers with a C compiler
RUN apt-get update \
    && apt-get install -y --no-install-recommends git libgomp1 $(test "$DEVICE" != cuda || echo gcc libc6-dev) \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/compiled /opt/compiled
COPY --from=build /opt/kafnets /opt/kafnets
# any user may run it, also one without a home here; what is downloaded goes to ~/.cache, or where KAFNETS_CACHE says
ENV PATH=/opt/venv/bin:$PATH KAFNETS_COMPILED=/opt/compiled HOME=/tmp LC_ALL=C.UTF-8
WORKDIR /workdir
CMD ["snakemake", "--snakefile", "/opt/kafnets/Snakefile", "--cores", "2", "--configfile", "/opt/kafnets/workflow/presets/demo.yaml"]
