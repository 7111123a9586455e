# One static binary in an otherwise empty image. It manages the table of the network namespace it
# runs in, so for the host's:
#
#   docker build -t ctd --build-arg VERSION=$(git describe --tags --always) .
#   docker run -d --name ctd --network host --cap-drop ALL --cap-add NET_ADMIN --cap-add NET_RAW \
#     -v ctd-state:/var/lib/ctd ctd
#   docker exec ctd ctd list
FROM golang:1.26-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends libcap2-bin && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY main.go ./
COPY auth auth
COPY clients clients
COPY conntrack conntrack
COPY helper helper
COPY rpc rpc
COPY server server
ARG VERSION=unknown
RUN CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/usr/bin/ctd . \
 # The user isn't root; the capabilities come with the file. Without NET_ADMIN and NET_RAW in the
 # container's own set the kernel refuses to run it.
 && setcap cap_net_admin,cap_net_raw+ep /out/usr/bin/ctd \
 && install -d -o 65532 -g 65532 -m 0755 /out/run/ctd \
 # Users, tokens and the audit log. A volume that is empty takes over the owner.
 && install -d -o 65532 -g 65532 -m 0700 /out/var/lib/ctd \
 # Authorities, for an OpenID Connect issuer.
 && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt

FROM scratch
# Without --chown: the folder's owner comes along, and the capability stays on the file.
COPY --from=build /out /
USER 65532:65532
ENV PATH=/usr/bin
EXPOSE 8420
HEALTHCHECK --interval=30s --timeout=5s CMD ["/usr/bin/ctd", "info"]
ENTRYPOINT ["/usr/bin/ctd"]
CMD ["serve"]
