# conncheck in 30 MB, without a shell, as nobody in particular.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p conncheck --bin conncheck \
    && cp target/release/conncheck /conncheck

# glibc, the certificates of the public authorities, and a user `nonroot`.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /conncheck /conncheck
COPY config/docker/healthcheck.yaml /healthcheck.yaml
# Loopback, the default, is of no use inside a container.
ENV CONNCHECK_LISTEN=0.0.0.0:9797
EXPOSE 9797
# There is no curl in here, and conncheck can do it itself.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 \
    CMD ["/conncheck", "--check-once", "/healthcheck.yaml"]
ENTRYPOINT ["/conncheck"]
CMD ["/etc/conncheck"]
