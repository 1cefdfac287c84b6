#!/usr/bin/env bash
# The keypoint pipeline on its embedded demo clips: from skeletons to generated text. A second run goes on.
source "$(dirname "$0")/install.sh"
uni-sign demo-data --keypoints
uni-sign pipeline --config-override configs/pipeline_demo.yaml "$@"
