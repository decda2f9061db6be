-- Take turns of a cursor; returns the first. Taken twice by a repeated call, some are skipped. ARGV: repeated, cursor,
-- count, cursors of campaigns that are kept, 1 when this is one of them.

local turns, used = KEYS[1] .. ':turns', KEYS[1] .. ':cursors'
if ARGV[5] == '1' then
  redis.call('ZADD', used, redis.call('INCR', KEYS[1] .. ':cursor-turn'), ARGV[2])
  local over = redis.call('ZCARD', used) - tonumber(ARGV[4])
  if over > 0 then
    for _, cursor in ipairs(redis.call('ZRANGE', used, 0, over - 1)) do
      redis.call('HDEL', turns, cursor)
      redis.call('ZREM', used, cursor)
    end
  end
end
return redis.call('HINCRBY', turns, ARGV[2], ARGV[3]) - ARGV[3]
