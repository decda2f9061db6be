-- Add to counters, once for each number of an owner. ARGV: repeated, owner, number, then counter and delta of each.

local done = KEYS[1] .. ':counted:' .. ARGV[2]
if redis.call('GET', done) == ARGV[3] then
  return 0
end
for n = 4, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[1] .. ':counts', ARGV[n], ARGV[n + 1])
end
redis.call('SET', done, ARGV[3], 'PX', 86400000)
return 1
