#!/bin/bash
# Makes a cluster in $PGDATA the first time, and serves it.
set -euo pipefail
bin=$(echo /usr/lib/postgresql/*/bin)
if [ ! -e "$PGDATA/PG_VERSION" ]; then
  "$bin/initdb" --auth-local=trust --auth-host=scram-sha-256 --pwfile=<(echo "$POSTGRES_PASSWORD") --username=postgres --no-sync "$PGDATA"
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
fi
# A volume that gets its group from the pod (fsGroup) becomes group-writable, which PostgreSQL refuses.
chmod 700 "$PGDATA"
exec "$bin/postgres" -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp -c shared_buffers=16MB -c max_connections=300
