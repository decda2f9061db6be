-- What the scripts of the shared spool have in common. All keys begin with P:
--   m:<id>      hash of a message: q queue, due, st standing (0 queued, 1 held, 2 quarantined), b attempt open,
--               at attempts, ba attempts that a release goes back to, cr crashes, sz size, rc received, re reason,
--               tk token of the lease ('' is none), d message as JSON, sum checksum of it, nc number of its storing
--   c:<id>      hash of its content: head, body ('' when in pieces), size, sum, pieces, nc
--   b:<id>:<nc>:<n>  a piece of a large body
--   w:<queue>   sorted set of those that wait for their turn (queued and not leased), by due
--   o:<queue>   sorted set of all in a queue, by the time they were received
--   q:<queue>   hash: queued, held, quarantined, size      queues   set of the queues that hold anything
--   all         sorted set of all ids                      total    hash: n, bytes
--   held:<owner>  set of ids leased by a process           owners   sorted set of processes, by when their leases end
--   dead:<owner>  its messages were taken over             fence    number of the last lease

local P = KEYS[1]
local REPEATED = ARGV[1] == '1'
local STANDINGS = { [0] = 'queued', [1] = 'held', [2] = 'quarantined' }

local function time()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

local function m(id)
  return P .. ':m:' .. id
end

local function owner_of(token)
  return string.match(token, '^(.*)/')
end

local function total()
  return redis.call('HMGET', P .. ':total', 'n', 'bytes')
end

-- Nothing is leased to a process that was taken for dead: nobody would look for it there again.
local function is_dead(owner)
  return redis.call('EXISTS', P .. ':dead:' .. owner) == 1
end

local function dead_reply()
  return redis.error_reply('DEADOWNER this process was taken for dead')
end

local function new_token(owner)
  return owner .. '/' .. string.format('%.0f', redis.call('INCR', P .. ':fence'))
end

local function field(id, name)
  return redis.call('HGET', m(id), name)
end

-- Whether this lease is good. A message that is gone has none.
local function holds(id, token)
  return token ~= '' and field(id, 'tk') == token
end

local function hold_lease(id, token)
  redis.call('HSET', m(id), 'tk', token)
  redis.call('SADD', P .. ':held:' .. owner_of(token), id)
end

local function drop_lease(id, token)
  redis.call('HSET', m(id), 'tk', '')
  redis.call('SREM', P .. ':held:' .. owner_of(token), id)
end

local function wait_in(queue, id, due)
  redis.call('ZADD', P .. ':w:' .. queue, due, id)
end

local function move(queue, from, to)
  if from ~= to then
    redis.call('HINCRBY', P .. ':q:' .. queue, STANDINGS[from], -1)
    redis.call('HINCRBY', P .. ':q:' .. queue, STANDINGS[to], 1)
  end
end

local function remove_content(id)
  local kept = redis.call('HMGET', P .. ':c:' .. id, 'pieces', 'nc')
  for n = 1, tonumber(kept[1] or 0) do
    redis.call('DEL', P .. ':b:' .. id .. ':' .. kept[2] .. ':' .. n)
  end
  redis.call('DEL', P .. ':c:' .. id)
end

-- A message and all that belongs to it.
local function remove(id)
  local kept = redis.call('HMGET', m(id), 'q', 'st', 'sz', 'tk')
  local queue = kept[1]
  redis.call('DEL', m(id))
  remove_content(id)
  redis.call('ZREM', P .. ':all', id)
  redis.call('ZREM', P .. ':w:' .. queue, id)
  redis.call('ZREM', P .. ':o:' .. queue, id)
  if kept[4] ~= '' then
    redis.call('SREM', P .. ':held:' .. owner_of(kept[4]), id)
  end
  redis.call('HINCRBY', P .. ':q:' .. queue, STANDINGS[tonumber(kept[2])], -1)
  redis.call('HINCRBY', P .. ':q:' .. queue, 'size', -tonumber(kept[3]))
  redis.call('HINCRBY', P .. ':total', 'n', -1)
  redis.call('HINCRBY', P .. ':total', 'bytes', -tonumber(kept[3]))
  if redis.call('ZCARD', P .. ':o:' .. queue) == 0 then
    redis.call('DEL', P .. ':q:' .. queue)
    redis.call('SREM', P .. ':queues', queue)
  end
end

local COLUMNS = { 'q', 'due', 'st', 'b', 'at', 'cr', 'sz', 'rc', 're', 'tk', 'sum', 'd' }

local function row(id)
  local values = redis.call('HMGET', m(id), unpack(COLUMNS))
  values[#COLUMNS + 1] = id
  return values
end

-- Give a message back as if nobody had looked at it, or with an open attempt closed.
local function put_back(id, due)
  local kept = redis.call('HMGET', m(id), 'q', 'st', 'due')
  if due ~= '' then
    redis.call('HSET', m(id), 'due', due)
  end
  if kept[2] == '0' then
    wait_in(kept[1], id, due ~= '' and due or kept[3])
  end
end
