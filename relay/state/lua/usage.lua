-- Fill of caps: relay/state/granting.py `usage`. Writes nothing.
-- ARGV: repeated, doubles (now or -1, candidates), names. Returns doubles: now, then `used free_at` for each cap.

local names = {}
for n = 3, #ARGV do
  names[#names + 1] = ARGV[n]
end
local read = reader(ARGV[2])
local now = read()
if now < 0 then
  now = time()
end
local out = { now }
for _, candidate in ipairs(read_candidates(read, names)) do
  local at = arrive(candidate.book, now)
  for _, cap in ipairs(candidate.caps) do
    local ledger = ledger_of(candidate.book, cap)
    expire(candidate.book, ledger, at)
    local free_at = ledger_free_at(ledger, cap, 1, at)
    if free_at <= at then
      free_at = min(now, free_at)
    end
    out[#out + 1] = ledger.used
    out[#out + 1] = free_at
  end
end
return packed(out)
