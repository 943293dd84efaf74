#!/bin/sh
# What a machine has whose own nginx and apache2 run: in a mount namespace, on a copy of their configuration, so that the
# machine's own are left alone. Then the words, as a child: all of it ends with this shell's process namespace.
set -eu
mount --make-rprivate /
for server in nginx apache2; do
  copy="$HOME/$server"
  cp -a "/etc/$server/." "$copy"
  rm -f "$copy"/sites-enabled/*
  mount --bind "$copy" "/etc/$server"
done
# Root's own folders are served here.
sed -i 's/^user .*/user root;/' /etc/nginx/nginx.conf
echo "Listen 127.0.0.1:$1" >/etc/apache2/ports.conf
shift
mount -t tmpfs tmpfs /run
mkdir /run/lock
mount -t tmpfs tmpfs /var/log
mkdir /var/log/nginx /var/log/apache2
mount -t tmpfs tmpfs /var/lib/nginx
nginx
apache2ctl start 2>/dev/null
"$@" &
wait
