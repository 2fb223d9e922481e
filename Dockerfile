# One image per trust level: operator, relay, agent, store, watchtower. An image carries the modules of its own process and nothing else, so an agent or a relay has
# no Kubernetes client, no chain client and no web framework that could be turned against it.
#
#   docker build --target agent -t REGISTRY/veilpod-agent .
#
# Any Debian-like base with Python 3.11 or newer will do.
ARG BASE=python:3.11-slim

# The launcher runs inside the user's image, which may not even have a libc: static, no dependency.
FROM ${BASE} AS launcher
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev
COPY operator/launcher/launch.c operator/launcher/confine.h /src/
RUN gcc -std=c17 -O2 -static -Wall -Wextra -Werror -o /src/launch /src/launch.c && strip /src/launch

FROM ${BASE} AS libraries
RUN python3 -m venv /opt/veilpod
COPY requirements/base.txt /src/
RUN /opt/veilpod/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /src/base.txt

FROM libraries AS operator-libraries
COPY requirements/operator.txt /src/
RUN /opt/veilpod/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /src/operator.txt

FROM libraries AS watchtower-libraries
COPY requirements/watchtower.txt /src/
RUN /opt/veilpod/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /src/watchtower.txt

# Libraries come before what is ours: with a new version of ours, nodes fetch no library again.
FROM ${BASE} AS python
ENV PATH=/opt/veilpod/bin:$PATH PYTHONPATH=/opt/veilpod/src PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

# What relay, store and agent share. Byte code is compiled here because the root file systems are read-only.
FROM python AS common
COPY --from=libraries /opt/veilpod /opt/veilpod
COPY operator/veilpod/__init__.py operator/veilpod/errors.py operator/veilpod/ports.py /opt/veilpod/src/veilpod/
COPY operator/veilpod/core /opt/veilpod/src/veilpod/core
COPY operator/veilpod/net /opt/veilpod/src/veilpod/net
RUN python3 -m compileall -q /opt/veilpod/src

FROM common AS relay
COPY operator/veilpod/relay /opt/veilpod/src/veilpod/relay
RUN python3 -m compileall -q /opt/veilpod/src/veilpod/relay
USER 65532:65532
ENTRYPOINT ["python3", "-m", "veilpod.relay"]

FROM common AS store
COPY operator/veilpod/store /opt/veilpod/src/veilpod/store
RUN python3 -m compileall -q /opt/veilpod/src/veilpod/store
USER 65532:65532
ENTRYPOINT ["python3", "-m", "veilpod.store"]

FROM common AS agent
COPY --from=launcher /src/launch /opt/veilpod/bin/launch
COPY operator/veilpod/agent /opt/veilpod/src/veilpod/agent
RUN python3 -m compileall -q /opt/veilpod/src/veilpod/agent
USER 65532:65532
ENTRYPOINT ["python3", "-m", "veilpod.agent"]

# A chain client and no Kubernetes client.
FROM python AS watchtower
COPY --from=watchtower-libraries /opt/veilpod /opt/veilpod
COPY operator/veilpod/__init__.py operator/veilpod/errors.py operator/veilpod/ports.py /opt/veilpod/src/veilpod/
COPY operator/veilpod/core /opt/veilpod/src/veilpod/core
COPY operator/veilpod/net /opt/veilpod/src/veilpod/net
COPY operator/veilpod/chain /opt/veilpod/src/veilpod/chain
COPY operator/veilpod/watchtower /opt/veilpod/src/veilpod/watchtower
RUN python3 -m compileall -q /opt/veilpod/src
USER 65532:65532
ENTRYPOINT ["python3", "-m", "veilpod.watchtower"]

FROM python AS operator
# kopf asks who it runs as, and the image's user database knows no 65532.
ENV USER=veilpod
COPY --from=operator-libraries /opt/veilpod /opt/veilpod
COPY operator/veilpod /opt/veilpod/src/veilpod
RUN python3 -m compileall -q /opt/veilpod/src
USER 65532:65532
ENTRYPOINT ["python3", "-m", "veilpod.control"]
