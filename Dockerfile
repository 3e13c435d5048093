# The CA service in an image of its own: no shell, no package manager, not root.
#
#   docker build --target ca -t countersign .
#   docker run -p 8443:8443 -v ca:/var/lib/countersign -v ./ca.toml:/etc/countersign/countersign.toml:ro countersign

FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc g++ libc6-dev ca-certificates \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
RUN cargo build --release --locked -p countersign-cli \
 && install -d -o 10001 -g 10001 -m 0700 /image/var/lib/countersign \
 && install -D -m 0755 target/release/countersign /image/usr/bin/countersign \
 && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt

FROM gcr.io/distroless/cc-debian12 AS ca
COPY --from=build --chown=0:0 /image/usr /usr
COPY --from=build --chown=0:0 /image/etc /etc
COPY --from=build --chown=10001:10001 /image/var/lib/countersign /var/lib/countersign
USER 10001:10001
VOLUME /var/lib/countersign
EXPOSE 8443
ENV HOME=/var/lib/countersign
ENTRYPOINT ["/usr/bin/countersign"]
CMD ["serve"]
