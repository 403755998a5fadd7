"""An OpenAI-compatible server for tests: `chat_server.py LOG [MODE] [SECONDS]` prints its port.

It answers every question by a rule of the image's bytes, with probabilities. Each answer that was
sent in full is a line of LOG: the image, the root, how often it was asked. MODE "bad" misbehaves
at the first request of each question, in turn in every way of `BAD`; "hang" answers nothing.
"""

import hashlib, json, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOG, MODE = sys.argv[1], (sys.argv[2:3] or ["good"])[0]
SECONDS = float((sys.argv[3:4] or ["0"])[0])  # that an answer takes
BAD = "500 429 html hang cut wrong-json wrong-ids missing words drop refusal empty".split()
WORDS = "positive", "negative", "absent"
PAIRS = "edges, crisp edges, dissolving edges", "shadow, luminous shadow, dead shadow"
PAIRS += "colour, colours in accord, clashing colours", "tone, a full range, a grey tone"
lock, seen = threading.Lock(), {}


def completion(text, finish="stop", tokens=None, **message):
    choice = dict(
        index=0, finish_reason=finish, message=dict(role="assistant", content=text) | message
    )
    if tokens:
        choice["logprobs"] = dict(content=tokens)
    usage = dict(prompt_tokens=1000, completion_tokens=len(text or ""))
    return dict(id="1", object="chat.completion", choices=[choice], usage=usage)


def spoken(words):
    "The tokens of an answer: the chosen word has 0.9, the others 0.06 and 0.04."
    tokens = []
    for i, (key, word) in enumerate(words.items()):
        lead = ("{" if i == 0 else ", ") + json.dumps(key) + ': "'
        others = [
            dict(token=w, logprob=p)
            for w, p in zip([w for w in WORDS if w != word], (-2.8134, -3.2189))
        ]
        tokens.append(dict(token=lead, logprob=0.0, top_logprobs=[]))
        tokens.append(dict(token=word, logprob=-0.10536, top_logprobs=others))
        tokens.append(dict(token='"', logprob=0.0, top_logprobs=[]))
    return [*tokens, dict(token="}", logprob=0.0, top_logprobs=[])]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status, body, **headers):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in dict({"Content-Length": len(data)}, **headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        parts = body["messages"][1]["content"]
        seen_by_it = parts if isinstance(parts, str) else parts[0]["image_url"]["url"]
        image = hashlib.sha256(seen_by_it.encode()).hexdigest()
        keys = list(body["response_format"]["json_schema"]["schema"]["properties"])
        question = image[:12], keys[0]
        with lock:
            seen[question] = count = seen.get(question, 0) + 1
            number = sum(first == keys[0] for _, first in seen)  # each root meets every way
        words = {
            k: WORDS[int(hashlib.sha256((image + k).encode()).hexdigest(), 16) % 3] for k in keys
        }
        if keys == ["caption"]:
            words = dict(caption=f"Image {image[:6]}.")
        if keys == ["pairs"]:
            names = ("about", "positive", "negative")
            words = dict(pairs=[dict(zip(names, pair.split(", "))) for pair in PAIRS])
        time.sleep(3600 if MODE == "hang" else SECONDS)
        way = BAD[number % len(BAD)] if MODE == "bad" and count == 1 else "good"
        text = json.dumps(words)
        match way:
            case "500":
                return self.reply(500, "out of memory")
            case "429":
                return self.reply(429, "slow down", Retry_After="0.2")
            case "html":
                return self.reply(200, "<html>a proxy's page</html>")
            case "hang":
                return time.sleep(3)
            case "drop":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices"')
                return self.connection.close()
            case "cut":
                return self.reply(200, completion(text[: len(text) // 2], "length"))
            case "wrong-json":
                return self.reply(200, completion("{'positive': all of them}"))
            case "wrong-ids":
                return self.reply(200, completion(json.dumps(dict.fromkeys(["a", "b"], "absent"))))
            case "missing":
                return self.reply(200, completion(json.dumps(dict(list(words.items())[1:]))))
            case "words":
                return self.reply(200, completion(json.dumps(dict.fromkeys(words, "yes"))))
            case "refusal":
                return self.reply(200, completion(None, refusal="I cannot judge this."))
            case "empty":
                return self.reply(200, dict(choices=[]))
        told = body.get("logprobs") and keys not in (["pairs"], ["caption"])
        tokens = spoken(words) if told else None
        self.reply(200, completion(text, tokens=tokens))
        with lock, open(LOG, "a") as f:
            f.write(f"{image[:12]} {keys[0]} {count}\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass  # a client that was killed


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
