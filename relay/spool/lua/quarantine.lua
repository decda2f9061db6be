-- Set a damaged message aside, whoever has it. ARGV: repeated, id, reason. Returns 1, or 0 when it is gone.

local id = ARGV[2]
local kept = redis.call('HMGET', m(id), 'q', 'st', 'tk')
if not kept[1] then
  return 0
end
if kept[3] and kept[3] ~= '' then
  drop_lease(id, kept[3])
end
redis.call('HSET', m(id), 'st', 2, 're', ARGV[3], 'b', 0, 'tk', '')
redis.call('ZREM', P .. ':w:' .. kept[1], id)
move(kept[1], tonumber(kept[2]), 2)
return 1
