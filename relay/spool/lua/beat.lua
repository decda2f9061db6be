-- A process says that it lives, and gets to know that it was taken for dead. ARGV: repeated, owner, seconds (0: it
-- leaves). Returns 1, or 0 when its messages were taken over.

local owner, ttl = ARGV[2], tonumber(ARGV[3])
if redis.call('EXISTS', P .. ':dead:' .. owner) == 1 then
  return 0
end
if ttl > 0 then
  redis.call('ZADD', P .. ':owners', string.format('%.3f', time() + ttl), owner)
elseif redis.call('SCARD', P .. ':held:' .. owner) == 0 then
  redis.call('ZREM', P .. ':owners', owner)
else
  redis.call('ZADD', P .. ':owners', 0, owner)
end
return 1
