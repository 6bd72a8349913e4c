#!/usr/bin/env bash
# Installs what `make scale-test` starts, from Debian's archive, where root may; elsewhere says what is missing.
# Nothing that it installs is started: the tests start servers of their own, on ports of their own.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin:$(echo /usr/lib/postgresql/*/bin | tr ' ' :)"
declare -A packages=([slurmctld]=slurmctld [slurmd]=slurmd [sbatch]=slurm-client [munged]=munge [sshd]=openssh-server
    [ssh-keygen]=openssh-client [ip]=iproute2 [initdb]=postgresql)
missing=()
for program in "${!packages[@]}"; do
    command -v "$program" > /dev/null || missing+=("${packages[$program]}")
done
(( ${#missing[@]} )) || exit 0
if [[ $(id -u) != 0 ]] || ! command -v apt-get > /dev/null; then
    echo "scale-test: not installed, so that tests are skipped: ${missing[*]}; as root: apt-get install ${missing[*]}" >&2
    exit 0
fi
policy=/usr/sbin/policy-rc.d  # asked by packages before they start a service
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends slurm-wlm-basic-plugins "${missing[@]}" > /dev/null
