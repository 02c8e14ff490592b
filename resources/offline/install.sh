#!/bin/sh
# Install pathotune from this folder: sh install.sh [--to FOLDER]
here=$(cd "$(dirname "$0")" && pwd)
wanted=$(sed -n 's/.*"python": *"\([0-9.]*\)".*/\1/p' "$here/manifest.json" | head -n 1)
for python in "python$wanted" python3 python; do
    if "$python" -c "" >/dev/null 2>&1; then
        exec "$python" "$here/install.py" "$@"
    fi
done
echo "pathotune: there is no Python here. Install Python $wanted first." >&2
exit 1
