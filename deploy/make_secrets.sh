#!/bin/sh
# Create the missing secrets for compose.yaml, each with 64 hexadecimal digits.
# Only the owner can open the folder. The files are world-readable because the users in the containers have other IDs.
set -eu
folder="${1:-$(dirname "$0")/secrets}"
umask 077
mkdir -p "$folder"
chmod 0700 "$folder"
for name in admin_token view_token camera_publish_password camera_read_password grafana_password; do
    file="$folder/$name"
    if [ -e "$file" ]; then
        echo "$file: kept"
        continue
    fi
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$file.new"
    chmod 0444 "$file.new"
    mv "$file.new" "$file"
    echo "$file: made"
done
