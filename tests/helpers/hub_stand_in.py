"""A stand-in for the HuggingFace hub on this machine, as its client asks it when it uploads."""

import base64
import contextlib
import http.server
import json
import threading


class _Handler(http.server.BaseHTTPRequestHandler):
  def log_message(self, *values):
    pass

  def do_GET(self):
    self.server.asked.append(("GET", self.path, self.headers.get("Authorization")))
    if "whoami" in self.path:
      self._answer({"name": "me", "type": "user"})
      return
    self.send_response(404)
    self.send_header("X-Error-Code", "RepoNotFound")
    self.send_header("Content-Length", "0")
    self.end_headers()

  def do_POST(self):
    body = self._body()
    self.server.asked.append(("POST", self.path, self.headers.get("Authorization")))
    if self.path.endswith("/create"):
      self.server.created.append(json.loads(body))
      self._answer({"url": f"{self.server.url}/org/mine", "id": "org/mine", "name": "org/mine"})
    elif "/preupload/" in self.path:
      modes = [
        {"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]
      ]
      self._answer({"files": [{**mode, "shouldIgnore": False, "oid": None} for mode in modes]})
    elif "/commit/" in self.path:
      for line in map(json.loads, body.splitlines()):
        if line["key"] == "file":
          self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
      self._answer({"commitUrl": f"{self.server.url}/org/mine/commit/ab12", "commitOid": "ab12"})
    else:
      self._answer({})

  def _body(self):
    if self.headers.get("Transfer-Encoding") != "chunked":
      return self.rfile.read(int(self.headers.get("Content-Length") or 0))
    whole = b""
    while size := int(self.rfile.readline(), 16):
      whole += self.rfile.read(size)
      self.rfile.readline()
    return whole

  def _answer(self, value):
    body = json.dumps(value).encode()
    self.send_response(200)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)


@contextlib.contextmanager
def serving():
  """Yields a server with `url`, and what it was sent: `asked`, `created` and `files` by path."""
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
  server.url = f"http://127.0.0.1:{server.server_port}"
  server.asked, server.created, server.files = [], [], {}
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  try:
    yield server
  finally:
    server.shutdown()
    server.server_close()
    thread.join()
