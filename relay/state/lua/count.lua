-- Add to counters, once for each number of an owner. ARGV: repeated, owner, number, campaigns told apart, slack, then
-- counter, the same counter without its campaign, delta, and campaign ('' none) of each.
--
-- Clients invent campaigns without end: what the oldest counted is added to the counters without a campaign.

local P = KEYS[1]
local counts, used = P .. ':counts', P .. ':campaigns'
local done = P .. ':counted:' .. ARGV[2]
if redis.call('GET', done) == ARGV[3] then
  return 0
end
local turn = redis.call('INCR', P .. ':campaign-turn')
for n = 6, #ARGV, 4 do
  redis.call('HINCRBY', counts, ARGV[n], ARGV[n + 2])
  if ARGV[n + 3] ~= '' then
    redis.call('ZADD', used, turn, ARGV[n + 3])
    redis.call('HSET', P .. ':campaign:' .. ARGV[n + 3], ARGV[n], ARGV[n + 1])
  end
end
redis.call('SET', done, ARGV[3], 'PX', 86400000)
local known, most = redis.call('ZCARD', used), tonumber(ARGV[4])
if known <= most + tonumber(ARGV[5]) then
  return 1
end
for _, campaign in ipairs(redis.call('ZRANGE', used, 0, known - most - 1)) do
  local names = redis.call('HGETALL', P .. ':campaign:' .. campaign)
  for n = 1, #names, 2 do
    redis.call('HINCRBY', counts, names[n + 1], redis.call('HGET', counts, names[n]) or 0)
    redis.call('HDEL', counts, names[n])
  end
  redis.call('DEL', P .. ':campaign:' .. campaign)
  redis.call('ZREM', used, campaign)
end
return 1
