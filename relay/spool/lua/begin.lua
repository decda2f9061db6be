-- Mark attempts as begun, all or none. ARGV: repeated, then id and token of each. Returns attempts of each, or the id of
-- a message whose lease is lost.

for n = 2, #ARGV, 2 do
  if not holds(ARGV[n], ARGV[n + 1]) then
    return ARGV[n]
  end
end
local out = {}
for n = 2, #ARGV, 2 do
  local id = ARGV[n]
  local kept = redis.call('HMGET', m(id), 'at', 'ba', 'b')
  local attempts, base = tonumber(kept[1]), tonumber(kept[2])
  if not (REPEATED and kept[3] == '1' and base < attempts) then
    base = attempts
    attempts = attempts + 1
    redis.call('HSET', m(id), 'b', 1, 'at', attempts, 'ba', base)
  end
  out[#out + 1] = attempts
end
return out
