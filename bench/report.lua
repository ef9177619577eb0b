-- wrk: what was seen, as one line of JSON that bench/load.py reads.
function done(summary, latency, requests)
  local bad = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "bytes": %d, "refused": %d, "broken": %d, "p50": %.3f, "p99": %.3f}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, bad.status,
    bad.connect + bad.read + bad.write + bad.timeout, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
