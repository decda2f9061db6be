-- Keep a new message. ARGV: repeated, id, nonce, owner ('' without a lease), most messages, most bytes (0: no bound),
-- queue, due, size, received, attempts, crashes, sum, data, head, body, size of body, sum of content, pieces.
-- Returns token, messages, bytes; or a word that says why not.

local id, nonce, owner = ARGV[2], ARGV[3], ARGV[4]
local known = redis.call('HMGET', m(id), 'nc', 'tk')
if known[1] then
  if known[1] == nonce then
    local all = total()
    return { known[2], all[1], all[2] }
  end
  return redis.error_reply('EXISTS there is a message with this id')
end
if REPEATED and redis.call('GET', P .. ':gone:' .. id) == nonce then
  local all = total()
  return { '', all[1] or 0, all[2] or 0 }
end
if owner ~= '' and is_dead(owner) then
  return dead_reply()
end
local all = total()
local messages, bytes, size = tonumber(all[1] or 0), tonumber(all[2] or 0), tonumber(ARGV[9])
local most, most_bytes = tonumber(ARGV[5]), tonumber(ARGV[6])
if (most > 0 and messages >= most) or (most_bytes > 0 and bytes + size > most_bytes) then
  return { 'full', messages, bytes }
end
local pieces = tonumber(ARGV[19])
for n = 1, pieces do
  if redis.call('EXISTS', P .. ':b:' .. id .. ':' .. nonce .. ':' .. n) == 0 then
    return redis.error_reply('PIECES of the body are missing')
  end
end
for n = 1, pieces do
  redis.call('PERSIST', P .. ':b:' .. id .. ':' .. nonce .. ':' .. n)
end
local queue = ARGV[7]
local token = owner ~= '' and new_token(owner) or ''
redis.call(
  'HSET', m(id), 'q', queue, 'due', ARGV[8], 'st', 0, 'b', owner ~= '' and 1 or 0, 'at', ARGV[11], 'ba', 0,
  'cr', ARGV[12], 'sz', ARGV[9], 'rc', ARGV[10], 're', '', 'tk', token, 'sum', ARGV[13], 'd', ARGV[14], 'nc', nonce,
  'ss', string.format('%.3f', time())
)
redis.call(
  'HSET', P .. ':c:' .. id, 'head', ARGV[15], 'body', ARGV[16], 'size', ARGV[17], 'sum', ARGV[18],
  'pieces', pieces, 'nc', nonce
)
if token ~= '' then
  redis.call('SADD', P .. ':held:' .. owner, id)
else
  wait_in(queue, id, ARGV[8])
end
redis.call('ZADD', P .. ':all', 0, id)
redis.call('ZADD', P .. ':o:' .. queue, ARGV[10], id)
redis.call('SADD', P .. ':queues', queue)
redis.call('HINCRBY', P .. ':q:' .. queue, 'queued', 1)
redis.call('HINCRBY', P .. ':q:' .. queue, 'size', ARGV[9])
redis.call('HINCRBY', P .. ':total', 'n', 1)
redis.call('HINCRBY', P .. ':total', 'bytes', ARGV[9])
return { token, messages + 1, bytes + size }
