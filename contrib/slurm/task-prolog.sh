#!/bin/sh
# TaskProlog of slurm.conf: distwatch in every Python of every task, without a change of anybody's job.
# It must be installed in the Python that the job uses; elsewhere the variable does nothing. Who sets
# DISTWATCH=0 stays without it.
echo "export DISTWATCH=${DISTWATCH:-1}"
