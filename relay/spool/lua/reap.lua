-- Take over a portion of what processes held that are gone. ARGV: repeated, due of open attempts, most, owner that asks,
-- 1 to take from those whose time is up (else only from those that left), then owners to take from whatever their time.
-- Returns owner ('' when there was none), 1 when there is more, then rows of messages whose attempt was open.

local self = ARGV[4]
local owner
for n = 6, #ARGV do
  if redis.call('EXISTS', P .. ':held:' .. ARGV[n]) == 1 then
    owner = ARGV[n]
    break
  end
  if ARGV[n] ~= self then
    redis.call('ZREM', P .. ':owners', ARGV[n])
  end
end
if not owner then
  local till = ARGV[5] == '1' and string.format('%.3f', time()) or '0'
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', P .. ':owners', '-inf', till, 'LIMIT', 0, 2)) do
    if name ~= self then
      owner = name
      break
    end
  end
end
if not owner then
  return { '', 0 }
end
if owner ~= self then
  redis.call('SET', P .. ':dead:' .. owner, 1, 'EX', 86400)
end
local held = P .. ':held:' .. owner
local out = { owner, 1 }
for _, id in ipairs(redis.call('SRANDMEMBER', held, ARGV[3])) do
  local token = field(id, 'tk')
  if token and token ~= '' and owner_of(token) == owner then
    drop_lease(id, token)
    if field(id, 'b') == '1' then
      redis.call('HINCRBY', m(id), 'cr', 1)
      redis.call('HSET', m(id), 'b', 0)
      put_back(id, ARGV[2])
      out[#out + 1] = row(id)
    else
      put_back(id, '')
    end
  else
    redis.call('SREM', held, id)
  end
end
if redis.call('SCARD', held) == 0 then
  if owner ~= self then
    redis.call('ZREM', P .. ':owners', owner)
  end
  out[2] = 0
end
return out
