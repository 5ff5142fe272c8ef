# The house of the demo in var/demo: a server with its private Postgres and one worker, kept running until somebody
# stops them. For scripts/demo, which fills it, and scripts/serve, which opens it again. After lib.sh.

home=var/demo
bin=${CARGO_TARGET_DIR:-target}/release

for program in senmon senmon-server senmon-worker; do
  [ -x "$bin/$program" ] || fail "$bin/$program is not built; run make build"
done
# A server that still runs here holds this lock; its data must not be pulled from under it.
if [ -e $home/server/server.lock ] && ! flock -n $home/server/server.lock true; then
  fail "another demo is running in $home; end it with Ctrl-C in its terminal first"
fi

port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

cores=$(nproc)
slots=$((cores < 4 ? cores : 4))
url='' server='' worker='' follow=''

# Chooses the port (DEMO_PORT, else 8080, else a free one) and writes both settings.
settle() {
  local port=${DEMO_PORT:-8080}
  if ! port_is_free "$port"; then
    local taken=$port
    port=$(free_port)
    say "port $taken is taken; using $port"
  fi
  url=http://127.0.0.1:$port
  cat >$home/server.toml <<TOML
listen = "127.0.0.1:$port"
data_dir = "$PWD/$home/server"
corpus_roots = ["$PWD/$home/corpus", "$PWD/$home/models"]
TOML
  case "$(postgres_bin)" in "$PWD"/*) echo "postgres_bin = \"$(postgres_bin)\"" >>$home/server.toml ;; esac
  cat >$home/worker.toml <<TOML
server_url = "$url"
token_file = "$PWD/$home/server/worker-token"
name = "demo"
state_dir = "$PWD/$home/worker"
slots = [
$(for ((slot = 0; slot < slots; slot++)); do echo '  { device = "cpu", threads = 1 },'; done)
]
TOML
}

stop() {
  trap - EXIT INT TERM
  if [ -n "$follow" ]; then kill -TERM "$follow" 2>/dev/null || true; fi
  # Worker first, each after the one that would start it again.
  for name in worker server; do
    [ -n "${!name}" ] || continue
    kill -TERM "${!name}" 2>/dev/null || true
    wait "${!name}" 2>/dev/null || true
    pid=$(cat $home/$name.pid)
    kill -TERM "$pid" 2>/dev/null || continue
    # A process that does not end by itself is ended.
    timeout 60 tail --pid="$pid" -s 0.1 -f /dev/null || kill -KILL "$pid" 2>/dev/null || true
  done
}

tail_of() { echo "--- the end of $1"; tail -20 "$1"; }

# keep NAME PROGRAM...: runs a program, its log and process id in $home, and starts it again when it is killed. One that
# ends at once is left alone. Their own process groups: Ctrl-C is ours to pass on.
keep() {
  local name=$1 began
  shift
  trap - EXIT INT TERM
  while :; do
    began=$SECONDS
    setsid "$@" >>$home/$name.log 2>&1 </dev/null &
    echo $! >$home/$name.pid
    wait $! 2>/dev/null || true
    [ $((SECONDS - began)) -ge 2 ] || return 1
    say "the $name ended; it is started again"
  done
}

ready() {
  (exec 3<>"/dev/tcp/127.0.0.1/${url##*:}" && printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3 && head -1 <&3 | grep -q ' 200') 2>/dev/null
}

# Starts both, waits until they serve, and says where.
open_house() {
  rm -f $home/server.log $home/worker.log
  trap stop EXIT
  trap 'echo; say "stopping"; exit 130' INT TERM
  keep server "$bin/senmon-server" --config $home/server.toml &
  server=$!
  for ((tries = 0; tries < 300; tries++)); do
    ready && break
    kill -0 "$server" 2>/dev/null || { tail_of $home/server.log; fail "the server did not start"; }
    sleep 0.2
  done
  ready || { tail_of $home/server.log; fail "the server is not ready after a minute"; }
  keep worker "$bin/senmon-worker" --config $home/worker.toml &
  worker=$!
  senmon=("$bin/senmon" --server "$url" --token-file $home/server/admin-token)
  say "the dashboard is at $url (one worker, $slots slots; logs in $home)"
  if [ -s $home/server/sign-in-link ]; then say "sign in once with $(cat $home/server/sign-in-link)"; fi
}

# Serves until Ctrl-C.
serve() {
  say "serving until Ctrl-C. In another terminal: export SENMON_TOKEN=\$(cat $home/server/admin-token)"
  wait "$server" || fail "the server ended; see $home/server.log"
}
