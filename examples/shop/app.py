#!/usr/bin/python3
"""The shop's application: products from PostgreSQL, cached in Redis; orders into PostgreSQL. Plain HTTP, JSON answers."""

import json
import os
import queue
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2
import redis

VERSION = os.environ.get("VERSION", "1")
CACHE_SECONDS = int(os.environ.get("CACHE_SECONDS", "5"))


def database():
    """A new connection. A name server that is just starting again refuses to answer, so that a failure is not taken for the last word."""
    for pause in [0.1, 0.2, 0.4, 0.8, 1.6, None]:
        try:
            return psycopg2.connect(
                host=os.environ["DATABASE_HOST"],
                dbname="shop",
                user="postgres",
                password=os.environ["DATABASE_PASSWORD"],
                connect_timeout=3,
            )
        except psycopg2.OperationalError:
            if pause is None:
                raise
            time.sleep(pause)


cache = redis.Redis(host=os.environ["REDIS_HOST"], socket_connect_timeout=2, socket_timeout=2)
# Connections that no request uses at the moment.
idle = queue.LifoQueue()


def query(sql, parameters=()):
    """Runs one statement on a connection that is free, on a new one where the old one broke."""
    while True:
        try:
            connection, new = idle.get_nowait(), False
        except queue.Empty:
            connection, new = database(), True
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(sql, parameters)
                found = cursor.fetchall()
        except (psycopg2.OperationalError, psycopg2.InterfaceError):
            if new:
                raise
            continue
        idle.put(connection)
        return found


def cached(work, *arguments, **options):
    """What the cache says to it, or None: the shop sells without its cache as well."""
    try:
        return work(*arguments, **options)
    except redis.RedisError as error:
        print(f"cache: {error}", flush=True)
        return None


def products():
    known = cached(cache.get, "products")
    if known:
        return {"cache": "hit", "products": json.loads(known)}
    found = [{"id": i, "name": name, "cents": cents} for i, name, cents in query("SELECT id, name, cents FROM products ORDER BY id")]
    cached(cache.set, "products", json.dumps(found), ex=CACHE_SECONDS)
    return {"cache": "miss", "products": found}


def order(product):
    (number,) = query("INSERT INTO orders (product) VALUES (%s) RETURNING id", (product,))[0]
    cached(cache.incr, "orders")
    return {"order": number}


def orders():
    return {"orders": query("SELECT count(*) FROM orders")[0][0]}


def ready():
    query("SELECT 1 FROM products LIMIT 1")
    return {"ready": True}


def burn():
    """Work for the processor, for the autoscaler to see."""
    total = 0
    for i in range(3_000_000):
        total += i * i
    return {"total": total}


ROUTES = {
    ("GET", "/"): products,
    ("GET", "/orders"): orders,
    ("GET", "/burn"): burn,
    ("GET", "/readyz"): ready,
    ("GET", "/healthz"): lambda: {"alive": True},
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, code, body):
        data = json.dumps({"version": VERSION, "pod": socket.gethostname(), **body}).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if stopping.is_set():
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(data)

    def act(self, work, *arguments):
        try:
            self.answer(200, work(*arguments))
        except Exception as error:  # What went wrong is the answer; the application goes on.
            self.answer(503, {"error": str(error)})

    def do_GET(self):
        work = ROUTES.get(("GET", self.path))
        self.act(work) if work else self.answer(404, {"error": "no such page"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/orders":
            self.act(lambda: order(json.loads(body or b"{}").get("product", 1)))
        else:
            self.answer(404, {"error": "no such page"})

    def log_message(self, form, *arguments):
        print(f"{self.address_string()} {form % arguments}", flush=True)


stopping = threading.Event()


def main():
    server = ThreadingHTTPServer(("", 8080), Handler)
    server.daemon_threads = False

    def stop(_signal, _frame):
        stopping.set()
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    print(f"shop version {VERSION} serving on 8080", flush=True)
    server.serve_forever()
    server.server_close()
    print("shop stopped", flush=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
