"""The other side of run.mjs: encode_batch of all texts at each line on stdin, with its time and a hash of all ids."""
import hashlib, json, sys, time
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file(sys.argv[1])
texts = json.load(open(sys.argv[2], encoding="utf-8"))
print("loaded", flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    seconds = time.perf_counter() - start
    digest = hashlib.sha256()
    for each in encoded:
        digest.update((",".join(map(str, each.ids)) + "\n").encode())
    print(json.dumps({"seconds": seconds, "hash": digest.hexdigest()}), flush=True)
