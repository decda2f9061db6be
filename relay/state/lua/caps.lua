-- The arithmetic of relay/pools/caps.py, on a hash for each candidate. Same slots, same answers: the contract suite
-- compares them. Read that module first; here are only the differences.
--
-- One hash holds the ledgers of all windows of a candidate. Fields, with w the window in seconds:
--   latest      time of the last change          w:m    first slot, slots, used, paced at, paced until (5 doubles)
--   ws          all windows, for a fold          w:<n>  recipients counted in slot n; absent means none
-- What a call touches is read once, changed here, and written once at its end.

local P = KEYS[1]
local REPEATED = ARGV[1] == '1'
local floor, min, max = math.floor, math.min, math.max
local NEVER = -math.huge
local MAX_SKEW_S = 60
local MAX_COUNT = 2147483648
local KEEP_MS = 120000 -- a book outlives what it holds by this, for callers whose clock is behind

local function num(x)
  return string.format('%.17g', x)
end

local function time()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

-- Reads doubles, one after the other.
local function reader(text)
  local place = 1
  return function()
    local value
    value, place = struct.unpack('<d', text, place)
    return value
  end
end

local function packed(values)
  local parts = {}
  for n = 1, #values do
    parts[n] = struct.pack('<d', values[n])
  end
  return table.concat(parts)
end

-- Ledgers

local function load_ledger(book, shape)
  local ledger = {
    window = shape.window, width = shape.width, span = shape.span, name = num(shape.window),
    first = 0, n = 0, used = 0, paced_at = NEVER, paced_until = NEVER, counts = {}, dirty = {}, key = book.key,
  }
  local meta = redis.call('HGET', book.key, ledger.name .. ':m')
  if meta then
    ledger.known = true
    ledger.first, ledger.n, ledger.used, ledger.paced_at, ledger.paced_until = struct.unpack('<ddddd', meta)
  end
  return ledger
end

local function slot_name(ledger, slot)
  return ledger.name .. ':' .. string.format('%.0f', slot)
end

-- Bring the counts of these slots into memory, many in one call.
local function fetch(ledger, from, to)
  local names, slots = {}, {}
  local function flush()
    if #names > 0 then
      local values = redis.call('HMGET', ledger.key, unpack(names))
      for n = 1, #slots do
        ledger.counts[slots[n]] = tonumber(values[n] or 0)
      end
      names, slots = {}, {}
    end
  end
  for slot = from, to do
    if ledger.counts[slot] == nil then
      names[#names + 1] = slot_name(ledger, slot)
      slots[#slots + 1] = slot
      if #names == 200 then
        flush()
      end
    end
  end
  flush()
end

local function count_of(ledger, slot)
  if ledger.counts[slot] == nil then
    fetch(ledger, slot, min(slot + 63, ledger.first + ledger.n - 1))
  end
  return ledger.counts[slot]
end

local function set_count(ledger, slot, count)
  ledger.counts[slot] = count
  ledger.dirty[slot] = true
end

local function strip(ledger)
  if ledger.used == 0 then
    fetch(ledger, ledger.first, ledger.first + ledger.n - 1)
    for slot = ledger.first, ledger.first + ledger.n - 1 do
      set_count(ledger, slot, 0)
    end
    ledger.n = 0
    return
  end
  while count_of(ledger, ledger.first) == 0 do
    ledger.first = ledger.first + 1
    ledger.n = ledger.n - 1
  end
end

local function expire(book, ledger, now)
  if ledger.n == 0 then
    return
  end
  local gone = floor(now / ledger.width) - ledger.span - ledger.first + 1
  if gone <= 0 then
    return
  end
  local last = min(gone, ledger.n)
  fetch(ledger, ledger.first, ledger.first + last - 1)
  for slot = ledger.first, ledger.first + last - 1 do
    ledger.used = ledger.used - ledger.counts[slot]
    set_count(ledger, slot, 0)
  end
  ledger.first = ledger.first + gone
  ledger.n = ledger.n - last
  strip(ledger)
  book.changed = true
end

local function room(ledger, cap, now)
  if cap.spread and now < ledger.paced_until then
    return 0
  end
  return max(0, cap.limit - ledger.used)
end

local function ledger_free_at(ledger, cap, cost, now)
  if cap.limit <= 0 then
    return now + ledger.window
  end
  local at = cap.spread and max(now, ledger.paced_until) or now
  local over = ledger.used + min(cost, cap.limit) - cap.limit
  if over > 0 then
    for slot = ledger.first, ledger.first + ledger.n - 1 do
      over = over - count_of(ledger, slot)
      if over <= 0 then
        return max(at, (slot + ledger.span) * ledger.width)
      end
    end
  end
  return at
end

local function take(ledger, cost, limit, now, spread)
  local slot = floor(now / ledger.width)
  if ledger.n > 0 then
    local ahead = slot - ledger.first - ledger.n + 1
    if ahead > 0 then
      for new = ledger.first + ledger.n, slot do
        ledger.counts[new] = 0
      end
      ledger.n = ledger.n + ahead
    end
  else
    ledger.first, ledger.n = slot, 1
    ledger.counts[slot] = 0
  end
  local last = ledger.first + ledger.n - 1
  set_count(ledger, last, count_of(ledger, last) + cost)
  ledger.used = ledger.used + cost
  if spread then
    ledger.paced_at = now
    ledger.paced_until = now + cost * ledger.window / limit
  end
end

local function ledger_give_back(ledger, count, granted, at)
  local index = floor(at / ledger.width) - ledger.first
  if index >= 0 and index < ledger.n then
    local slot = ledger.first + index
    count = min(count, count_of(ledger, slot))
    set_count(ledger, slot, ledger.counts[slot] - count)
    ledger.used = ledger.used - count
    if index == 0 then
      strip(ledger)
    end
  end
  if at == ledger.paced_at and granted > 0 then
    ledger.paced_until = at + (ledger.paced_until - at) * (max(0, granted - count) / granted)
  end
end

local function fold(ledger, now)
  local slot = floor(now / ledger.width)
  local last = ledger.first + ledger.n - 1
  if ledger.n > 0 and last > slot then
    local keep = max(0, slot - ledger.first)
    fetch(ledger, ledger.first, last)
    local future = 0
    for gone = ledger.first + keep, last do
      future = future + ledger.counts[gone]
      set_count(ledger, gone, 0)
    end
    ledger.used = ledger.used - future
    future = min(future, MAX_COUNT)
    if keep == 0 then
      ledger.first = slot
    end
    ledger.n = keep + 1
    set_count(ledger, ledger.first + keep, future)
    ledger.used = ledger.used + future
  end
  if ledger.paced_at > now then
    ledger.paced_until = now + (ledger.paced_until - ledger.paced_at)
    ledger.paced_at = now
  end
end

-- Books

local function load_book(name)
  local key = P .. ':cap:' .. name
  local head = redis.call('HMGET', key, 'latest', 'ws')
  return { key = key, latest = tonumber(head[1] or NEVER), ws = head[2] or '', ledgers = {}, order = {} }
end

local function ledger_of(book, shape)
  local ledger = book.ledgers[shape.window]
  if ledger == nil then
    ledger = load_ledger(book, shape)
    book.ledgers[shape.window] = ledger
    book.order[#book.order + 1] = ledger
  end
  return ledger
end

-- Every window a book has; the widths are kept beside them.
local function all_ledgers(book)
  for window, width, span in string.gmatch(book.ws, '(%S+) (%S+) (%S+);') do
    ledger_of(book, { window = tonumber(window), width = tonumber(width), span = tonumber(span) })
  end
  return book.order
end

local function arrive(book, now)
  if now < book.latest then
    if book.latest - now <= MAX_SKEW_S then
      return book.latest
    end
    for _, ledger in ipairs(all_ledgers(book)) do
      fold(ledger, now)
    end
    book.changed = true
  end
  book.latest = now
  return now
end

local function save(book)
  if not book.changed then
    return
  end
  local set, del = { 'latest', num(book.latest) }, {}
  local free_from = book.latest
  for _, ledger in ipairs(book.order) do
    if not ledger.known then
      local entry = ledger.name .. ' ' .. num(ledger.width) .. ' ' .. num(ledger.span) .. ';'
      if not string.find(book.ws, entry, 1, true) then
        book.ws = book.ws .. entry
        set[#set + 1] = 'ws'
        set[#set + 1] = book.ws
      end
    end
    set[#set + 1] = ledger.name .. ':m'
    set[#set + 1] = struct.pack('<ddddd', ledger.first, ledger.n, ledger.used, ledger.paced_at, ledger.paced_until)
    for slot in pairs(ledger.dirty) do
      local count = ledger.counts[slot]
      if count == 0 then
        del[#del + 1] = slot_name(ledger, slot)
      else
        set[#set + 1] = slot_name(ledger, slot)
        set[#set + 1] = string.format('%.0f', count)
      end
    end
    if ledger.n > 0 then
      free_from = max(free_from, (ledger.first + ledger.n - 1 + ledger.span) * ledger.width)
    end
    free_from = max(free_from, ledger.paced_until)
  end
  for from = 1, #set, 400 do
    redis.call('HSET', book.key, unpack(set, from, min(from + 399, #set)))
  end
  for from = 1, #del, 400 do
    redis.call('HDEL', book.key, unpack(del, from, min(from + 399, #del)))
  end
  local left = floor((free_from - book.latest) * 1000) + KEEP_MS
  if redis.call('PTTL', book.key) < left then
    redis.call('PEXPIRE', book.key, string.format('%.0f', left))
  end
end

-- Candidates as they come in a request: number of caps, then window, limit, spread, width, span of each.
local function read_candidates(read, names)
  local candidates, books = {}, {}
  for n = 1, read() do
    local caps = {}
    for c = 1, read() do
      caps[c] = { window = read(), limit = read(), spread = read() == 1, width = read(), span = read() }
    end
    local book = books[names[n]] or load_book(names[n])
    books[names[n]] = book
    candidates[n] = { book = book, caps = caps }
  end
  return candidates
end
