#!/usr/bin/env bash
# Installs the Debian packages that the named uses need, and only those that are
# missing. Usage: tools/install.sh [build] [test] [race] [peers] [conformance]
set -euo pipefail

missing=()
no_main_cluster=
need() { # need PACKAGE COMMAND-OR-FILE
  case $2 in
    /*) [ -e "$2" ] || missing+=("$1") ;;
    *) command -v "$2" >/dev/null 2>&1 || missing+=("$1") ;;
  esac
}

for use in "$@"; do
  case $use in
    build) need make make ;;
    test)
      need bind9-dnsutils dig # the judge of the name server
      need ca-certificates /etc/ssl/certs/ca-certificates.crt # the module proxy is fetched from over https
      need curl curl
      need git git
      need openssl openssl
      # The tests start clusters of their own; the distribution's would only run beside them.
      if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
        missing+=(postgresql)
        no_main_cluster=yes
      fi
      need util-linux setpriv
      ;;
    conformance)
      need bind9-dnsutils dig # testssl.sh looks names up with it
      need slowhttptest slowhttptest
      need sslscan sslscan
      need testssl.sh testssl
      ;;
    race) # the race detector links with C
      need gcc gcc
      need libc6-dev /usr/include/stdlib.h
      ;;
    peers) # what bench/peers measures beside, and builds its limit from
      need gcc gcc
      need haproxy haproxy
      need libc6-dev /usr/include/stdlib.h
      need libssl-dev /usr/include/openssl/ssl.h
      need nginx nginx
      need util-linux taskset
      ;;
    *) echo "error: unknown use $use (build, test, race, peers or conformance)" >&2; exit 2 ;;
  esac
done

if ! command -v go >/dev/null 2>&1; then
  echo "error: no go command in PATH" >&2
  echo "hint: install Go as go.mod asks for it: https://go.dev/doc/install" >&2
  exit 1
fi
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
  echo "error: not installed: ${missing[*]}" >&2
  echo "hint: only Debian's packages are installed from here; install these by hand" >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null 2>&1; then
    echo "error: not installed: ${missing[*]}" >&2
    echo "hint: as root: apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "installing ${missing[*]}" >&2
if [ -n "$no_main_cluster" ]; then
  "${as_root[@]}" mkdir -p /etc/postgresql-common/createcluster.d
  echo 'create_main_cluster = false' | "${as_root[@]}" tee /etc/postgresql-common/createcluster.d/fingerpost-tests.conf >/dev/null
fi
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q </dev/null >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" </dev/null >&2
# bench/peers runs servers by itself; as services they would only be in its way.
if [ -d /run/systemd/system ]; then
  for package in nginx haproxy; do
    case " ${missing[*]} " in
      *" $package "*) "${as_root[@]}" systemctl disable --now "$package" >&2 ;;
    esac
  done
fi
