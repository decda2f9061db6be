-- Take or extend a lease, or give it up. ARGV: repeated, name, owner, seconds (0 gives it up), now or -1.
-- Returns 1 when the caller has it (had it).

local key = KEYS[1] .. ':claim:' .. ARGV[2]
local owner, ttl, now = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local held = redis.call('HMGET', key, 'owner', 'until', 'ttl')
if ttl == 0 then
  if held[1] == owner then
    redis.call('DEL', key)
    return 1
  end
  return 0
end
if now < 0 then
  local t = redis.call('TIME')
  now = tonumber(t[1]) + tonumber(t[2]) / 1000000
end
-- A lease that ends later than its length from now was taken before the clock was set back.
if held[1] and held[1] ~= owner and now < tonumber(held[2]) and tonumber(held[2]) <= now + tonumber(held[3]) + 60 then
  return 0
end
redis.call('HSET', key, 'owner', owner, 'until', string.format('%.17g', now + ttl), 'ttl', ARGV[4])
redis.call('PEXPIRE', key, string.format('%.0f', (ttl + 120) * 1000))
return 1
