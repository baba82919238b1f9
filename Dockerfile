# The switch, both planes, and its tools. `docker compose up` shows it at work; docs/docker.md walks through it.
#
#   BASE      image with Node 26 that the switch runs on
#   PACKAGES  further Debian packages for it, such as iproute2, which Docker's network driver and rw-cni need
ARG BASE=node:26-slim

FROM ${BASE} AS build
RUN command -v gcc && command -v make || \
    { apt-get update && apt-get install -y --no-install-recommends gcc make libc6-dev; }
WORKDIR /opt/ringway
COPY package.json package-lock.json ./
COPY native native
# Node itself comes from the base.
RUN npm ci --omit=dev --no-audit --no-fund && rm -rf node_modules/node node_modules/node-linux-* node_modules/.bin
COPY . .

FROM ${BASE}
ARG PACKAGES=
RUN if [ -n "$PACKAGES" ]; then \
      apt-get update && apt-get install -y --no-install-recommends $PACKAGES && rm -rf /var/lib/apt/lists/*; \
    fi; \
    mkdir -p /run/ringway /var/lib/ringway && chown 1000:1000 /run/ringway /var/lib/ringway
COPY --from=build /opt/ringway /opt/ringway
# Sockets of shared-memory ports need no rights. Kernel ports do: --user root --cap-add NET_ADMIN --cap-add NET_RAW.
USER 1000:1000
ENV RINGWAY_RUNDIR=/run/ringway \
    PATH=/opt/ringway/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
  CMD ["node", "-e", "require('http').get({ socketPath: process.env.RINGWAY_RUNDIR + '/api.sock', path: '/healthz' }, (r) => r.on('data', (d) => process.exit(JSON.parse(d).status === 'ok' ? 0 : 1))).on('error', () => process.exit(1))"]
ENTRYPOINT ["rw-vswitchd", "--config", "/var/lib/ringway"]
CMD ["--default"]
