#!/bin/sh
# The image's entry point: TGI's launcher with the flags that follow the image's name.
set -eu

# A container that may use two CPUs of sixty-four still sees them all, and threads beyond the quota only wait for it.
cpu_quota() {
    if [ -r /sys/fs/cgroup/cpu.max ]; then
        read -r quota period </sys/fs/cgroup/cpu.max
    elif [ -r /sys/fs/cgroup/cpu/cpu.cfs_quota_us ]; then
        quota=$(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us)
        period=$(cat /sys/fs/cgroup/cpu/cpu.cfs_period_us)
    else
        return 0
    fi
    case $quota in
    max | -*) ;;
    *) echo $(((quota + period - 1) / period)) ;;
    esac
}

if [ -z "${NUM_THREADS:-}${OMP_NUM_THREADS:-}" ]; then
    threads=$(cpu_quota)
    [ -z "$threads" ] || export OMP_NUM_THREADS="$threads"
fi

# Engines set HOSTNAME to the container's own name, which the launcher would take for the address to listen on.
if [ "$(printenv HOSTNAME)" = "$(cat /etc/hostname 2>/dev/null)" ]; then
    unset HOSTNAME
fi

exec text-generation-launcher "$@"
