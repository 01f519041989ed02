#!/bin/sh
# Epilog of slurm.conf, run by root on each node of a job that has ended: keeps the report of each of its
# runs that hung or crashed, as the job's user. An epilog that fails drains the node: this one never does.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
distwatch=/opt/distwatch/bin/distwatch
runs=/tmp/distwatch-$SLURM_JOB_UID
reports=/var/spool/distwatch # mode 1777: each user writes there

for run in "$runs/slurm-$SLURM_JOB_ID."*; do
    [ -d "$run" ] || continue
    report=$reports/$(basename "$run")-$SLURMD_NODENAME.md
    timeout 60 runuser -u "$SLURM_JOB_USER" -- "$distwatch" report "$run" --output "$report"
    [ $? = 3 ] || rm -f "$report" # 3: a hang or a crash was found
done
exit 0
