# Two stages: the environment is built with compilers at hand and copied without them.
FROM python:3.12-slim AS build
WORKDIR /src
COPY requirements.lock pyproject.toml README.md ./
COPY relay ./relay
RUN python -m venv /opt/relay \
 && /opt/relay/bin/pip install --no-cache-dir --require-hashes -r requirements.lock \
 && /opt/relay/bin/pip install --no-cache-dir --no-deps . \
 && /opt/relay/bin/python -m compileall -q /opt/relay

FROM python:3.12-slim
LABEL org.opencontainers.image.title="relay" \
      org.opencontainers.image.description="SMTP relay proxy: bridges in, pools of nodes out"
RUN useradd --system --uid 10025 --home-dir /var/lib/relay --shell /usr/sbin/nologin relay \
 && install -d -o relay -g relay -m 0700 /var/lib/relay /var/lib/relay/spool
COPY --from=build /opt/relay /opt/relay
COPY conf/examples/container.yaml /etc/relay/relay.yaml
ENV PATH=/opt/relay/bin:$PATH RELAY_CONFIG=/etc/relay/relay.yaml PYTHONUNBUFFERED=1
USER 10025:10025
WORKDIR /var/lib/relay
VOLUME /var/lib/relay
EXPOSE 2525
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=15s CMD ["relay", "healthcheck"]
ENTRYPOINT ["relay"]
CMD ["run"]
