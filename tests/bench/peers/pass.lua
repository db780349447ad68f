-- wrk's part in the pass-through: it sends a payment, and counts every answer that is not the same body with 200.
local body = os.getenv("EDGEGW_BENCH_BODY")
wrk.method = "POST"
wrk.body = body
wrk.headers["Content-Type"] = "application/json"
wrong = 0

local threads = {}
function setup(thread)
    table.insert(threads, thread)
end

function response(status, headers, sent)
    if status ~= 200 or sent ~= body then wrong = wrong + 1 end
end

function done(summary, latency, requests)
    local errors = summary.errors
    local found = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    for _, thread in ipairs(threads) do found = found + thread:get("wrong") end
    io.write(string.format("edgegw %d %d %d %d %d %d\n", summary.requests, summary.duration, found,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
