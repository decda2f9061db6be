-- How full each queue is. ARGV: repeated. Returns messages, bytes, then for each queue: name, queued, held, quarantined,
-- size, next due ('' none), oldest.

local all = total()
local out = { all[1] or 0, all[2] or 0 }
for _, queue in ipairs(redis.call('SMEMBERS', P .. ':queues')) do
  local counts = redis.call('HMGET', P .. ':q:' .. queue, 'queued', 'held', 'quarantined', 'size')
  local due = redis.call('ZRANGE', P .. ':w:' .. queue, 0, 0, 'WITHSCORES')
  local oldest = redis.call('ZRANGE', P .. ':o:' .. queue, 0, 0, 'WITHSCORES')
  out[#out + 1] = {
    queue, counts[1] or 0, counts[2] or 0, counts[3] or 0, counts[4] or 0, due[2] or '', oldest[2] or '',
  }
end
return out
