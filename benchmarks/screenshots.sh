#!/bin/sh
# Takes the screenshots of a report for README.md and docs/: its top, and dialogues before and after tuning.
#
#   benchmarks/screenshots.sh results/experiments/demo/report/report.html
#
# Needs a Chromium (Debian: apt-get install --no-install-recommends chromium). Writes docs/images/.
set -eu

report=$(realpath "${1:?usage: benchmarks/screenshots.sh REPORT.html}")
images=$(dirname "$0")/../docs/images
chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome)
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
mkdir -p "$images"

# shoot NAME HEIGHT HIDDEN: the page, 1280 pixels wide, without the elements that match the selector HIDDEN
shoot() {
    sed "s#</head>#<style>$3 { display: none }</style></head>#" "$report" >"$profile/page.html"
    "$chromium" --headless --no-sandbox --disable-gpu --hide-scrollbars \
        --user-data-dir="$profile" --force-device-scale-factor=1 --window-size="1280,$2" \
        --screenshot="$images/$1.png" "file://$profile/page.html" 2>/dev/null
    size=$(wc -c <"$images/$1.png")
    echo "docs/images/$1.png: $size bytes"
    [ "$size" -lt 250000 ]
}

shoot report-top 1000 ".none"
shoot report-dialogues 1150 "header, nav, section:not([id=dialogues])"
