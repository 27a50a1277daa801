#!/bin/sh
# Makes the secrets that compose.yaml names, each 64 hexadecimal digits, where they are not there yet.
# The folder is open to its owner only; the files are readable for all, for the users within the containers have other numbers.
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
