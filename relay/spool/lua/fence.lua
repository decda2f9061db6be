-- Whether a lease is good, and if so for a while longer. ARGV: repeated, id, token, seconds. Returns 1 or 0.

local owner = owner_of(ARGV[3])
if not holds(ARGV[2], ARGV[3]) or redis.call('EXISTS', P .. ':dead:' .. owner) == 1 then
  return 0
end
redis.call('ZADD', P .. ':owners', string.format('%.3f', time() + tonumber(ARGV[4])), owner)
return 1
