'use strict'
const ROW = 72 // pixels
const LARGE = 320 // longer side of a picture beside its map, pixels
const data = JSON.parse(document.getElementById('data').textContent)
const colours = bytes(data.colours)
const greys = Uint8Array.from({ length: 768 }, (_, i) => Math.floor(i / 3)) // of maps that should not be believed
const [list, filter, verdict, sort, turn, exact] = ['list', 'filter', 'verdict', 'sort', 'turn', 'exact'].map(id => document.getElementById(id))

const orders = {
  'order of the data': null,
  similarity: pair => pair.score,
  drop: pair => {
    const through = [pair.imageScore, pair.textScore].filter(value => value !== null)
    return pair.score === null || !through.length ? null : pair.score - Math.min(...through)
  },
  disagreement: pair =>
    pair.imageScore === null || pair.textScore === null ? null : Math.abs(pair.imageScore - pair.textScore),
}
const metrics = [...new Set(data.pairs.flatMap(pair => Object.keys(pair.metrics)))] // of pairs that were scored
for (const name of metrics) orders[name] = pair => pair.metrics[name] ?? null
let shown = data.pairs // filtered and sorted
let chosen = null
let down = true

function bytes(base64) {
  return Uint8Array.from(atob(base64), character => character.charCodeAt(0))
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  made.append(...children)
  return made
}

function number(value) {
  if (value === null) return '–'
  const far = Math.abs(value) >= 1e4 || (value !== 0 && Math.abs(value) < 1e-3)
  return (far ? value.toExponential(1) : String(+value.toPrecision(3))).replace('-', '−')
}

function cosine(value) {
  return value === null ? '–' : value.toFixed(3).replace('-', '−')
}

// The list: only the rows in sight exist.

function choose() {
  const words = filter.value.toLowerCase().split(/\s+/)
  const value = orders[sort.value]
  shown = data.pairs.filter(pair => {
    const text = `${pair.title} ${pair.id}`.toLowerCase()
    return (!verdict.value || pair.verdict === verdict.value) && words.every(word => text.includes(word))
  })
  if (value) {
    const keyed = shown.map(pair => [value(pair), pair])
    keyed.sort(([a], [b]) => (a === null) - (b === null) || (down ? b - a : a - b)) // what has no value comes last
    shown = keyed.map(([, pair]) => pair)
  } else if (!down) shown.reverse()
  turn.textContent = down ? '↓' : '↑'
  document.getElementById('count').textContent = `${shown.length} of ${data.pairs.length} pairs`
  list.replaceChildren(element('div', { style: `height:${shown.length * ROW}px` }))
  list.scrollTop = 0
  drawRows()
}

function drawRows() {
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 3)
  const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 3)
  const there = new Set()
  for (const row of list.querySelectorAll('.row')) {
    const place = +row.dataset.place
    if (place < first || place >= last) row.remove()
    else there.add(place)
  }
  for (let place = first; place < last; place++) if (!there.has(place)) list.append(row(place))
}

function row(place) {
  const pair = shown[place]
  const [name, value] = [sort.value, orders[sort.value]]
  const found = element('output', {}, pair.error ? element('span', { class: 'bad' }, 'bad') : cosine(pair.score))
  if (!pair.error) found.append(element('br'), badge(pair))
  if (value && name !== 'similarity') found.append(element('br'), element('small', {}, `${name} ${metrics.includes(name) ? number(value(pair)) : cosine(value(pair))}`))
  const canvas = element('canvas')
  paint(canvas, pair, 60, true)
  const strongest = (pair.words ?? []).reduce((best, word) => (word[2] > best[2] ? word : best), ['', '', 0])[0]
  const made = element('div', { class: 'row', role: 'option', style: `top:${place * ROW}px`, 'data-place': place },
    canvas,
    element('div', { title: pair.title }, element('p', {}, pair.title),
      pair.error ? element('small', { class: 'bad' }, pair.error)
        : element('small', {}, pair.id + (strongest ? ` · ${strongest}` : ''))),
    found)
  made.setAttribute('aria-selected', pair === chosen)
  made.onclick = () => show(pair)
  return made
}

/** The verdict on a pair in a word. */
function badge(pair) {
  return element('span', { class: pair.verdict === 'ok' ? 'badge' : 'badge doubt', title: data.sentences[pair.verdict] }, pair.verdict.replaceAll('_', ' '))
}

// A map over its picture, as Attribution.overlay draws it.

/** For each pixel of a side the cells that it shows and their weights, which sum to 1; null where the model saw nothing. */
function weights(size, from, to, count) {
  // Bicubic, as Pillow's: 1 at a cell's own centre, 0 at every other one.
  const cubic = x => x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0
  return Array.from({ length: size }, (_, pixel) => {
    const place = ((pixel + 0.5) / size - from) / (to - from) * count
    if (place < 0 || place > count) return null
    if (exact.checked) return [[Math.min(count - 1, Math.floor(place)), 1]]
    const near = []
    for (let cell = Math.floor(place - 0.5) - 1; cell <= Math.floor(place - 0.5) + 2; cell++) {
      if (cell >= 0 && cell < count) near.push([cell, cubic(Math.abs(place - 0.5 - cell))])
    }
    const sum = near.reduce((total, [, weight]) => total + weight, 0)
    return near.map(([cell, weight]) => [cell, weight / sum])
  })
}

function heat(pair, width, height) {
  const { rows, low, high, top, cells } = pair.map
  const values = bytes(cells)
  const columns = values.length / rows
  const [left, upper, right, lower] = pair.view
  const value = (i, j) => Math.max(0, low + (high - low) * values[i * columns + j] / 255) / (top > 0 ? top : 1)
  const [across, down] = [weights(width, left, right, columns), weights(height, upper, lower, rows)]
  // First along the rows of the map, then down.
  const wide = Array.from({ length: rows }, (_, i) =>
    across.map(near => near ? near.reduce((sum, [j, weight]) => sum + weight * value(i, j), 0) : 0))
  const spread = new Float32Array(width * height)
  down.forEach((near, y) => {
    if (!near) return
    for (let x = 0; x < width; x++) {
      const sum = near.reduce((sum, [i, weight]) => sum + weight * wide[i][x], 0)
      spread[y * width + x] = Math.min(1, Math.max(0, sum))
    }
  })
  return spread
}

async function paint(canvas, pair, side, withMap) {
  const image = new Image()
  if (pair.picture) {
    image.src = pair.picture
    await image.decode()
  }
  const ratio = image.width ? image.width / image.height : pair.map ? bytes(pair.map.cells).length / pair.map.rows ** 2 : 1
  canvas.width = Math.max(1, Math.round(side * Math.min(1, ratio)))
  canvas.height = Math.max(1, Math.round(side * Math.min(1, 1 / ratio)))
  const context = canvas.getContext('2d')
  context.fillStyle = '#808080'
  context.fillRect(0, 0, canvas.width, canvas.height)
  if (image.width) context.drawImage(image, 0, 0, canvas.width, canvas.height)
  if (!withMap || !pair.map) return
  const picture = context.getImageData(0, 0, canvas.width, canvas.height)
  blend(picture.data, heat(pair, canvas.width, canvas.height), pair)
  context.putImageData(picture, 0, 0)
}

function blend(pixels, spread, pair) {
  const table = pair.doubtful.includes('image') ? greys : colours
  for (let i = 0; i < spread.length; i++) {
    const [r, g, b] = pixels.subarray(4 * i, 4 * i + 3)
    const grey = 0.299 * r + 0.587 * g + 0.114 * b
    const weight = 0.9 * Math.sqrt(spread[i])
    for (let c = 0; c < 3; c++) {
      const dimmed = 0.6 * (0.75 * grey + 0.25 * pixels[4 * i + c])
      pixels[4 * i + c] = (1 - weight) * dimmed + weight * table[3 * Math.round(255 * spread[i]) + c]
    }
  }
}

// One pair.

function show(pair) {
  chosen = pair
  for (const row of list.querySelectorAll('.row')) row.setAttribute('aria-selected', shown[row.dataset.place] === pair)
  const parts = Object.entries(orders).filter(([name, value]) => value && !metrics.includes(name) && value(pair) !== null)
  const through = [['image', pair.imageScore], ['text', pair.textScore]].filter(([, value]) => value !== null)
  document.getElementById('pair').replaceChildren(
    element('h1', {}, pair.title || pair.id),
    element('small', {}, [pair.id, pair.source].filter(Boolean).join(' · ')),
    pair.error ? element('p', { class: 'bad' }, pair.error) : says(pair),
    element('p', {}, [
      ...parts.map(([name, value]) => `${name} ${cosine(value(pair))}`),
      ...through.map(([name, value]) => `through the ${name}’s bottleneck ${cosine(value)}`),
      pair.end,
    ].filter(Boolean).join(' · ')),
    ...phrases(pair),
    pictures(pair), words(pair), ...scores(pair), ...curves(pair),
    ...masks(pair),
    ...(pair.settings === null ? [] : [element('details', {}, element('summary', { class: 'grey' }, 'settings'),
      element('pre', {}, JSON.stringify(data.settings[pair.settings], null, 1)))]))
  // Inside another page, as in `m2ib app`, there is no address to keep the pair in.
  if (location.protocol !== 'about:') history.replaceState(null, '', '#' + encodeURIComponent(pair.id))
}

/** What the verdict says, with what can be done where it is not "ok". */
function says(pair) {
  if (pair.verdict === 'ok') return element('p', {}, badge(pair), ' ' + data.sentences.ok)
  return element('p', { class: 'banner' }, element('b', {}, pair.headline + '.'), ' ' + data.sentences[pair.verdict])
}

function pictures(pair) {
  const side = element('div', { class: 'side' })
  for (const withMap of [false, true]) {
    if (withMap ? !pair.map : !pair.picture) continue
    const caption = element('figcaption', {}, withMap ? `${pair.unit} per patch` : 'image')
    const canvas = element('canvas', withMap ? { id: 'overlay' } : {})
    paint(canvas, pair, LARGE, withMap)
    side.append(element('figure', withMap ? { class: 'map' } : {}, caption, canvas, ...(withMap ? scale(pair) : [])))
    if (withMap) read(canvas, caption, pair)
  }
  return side
}

function scale(pair) {
  const bar = element('canvas')
  bar.width = 256
  bar.height = 10
  bar.style = 'width:100%;height:10px;display:block;margin-top:6px'
  const context = bar.getContext('2d')
  context.fillStyle = '#808080'
  context.fillRect(0, 0, 256, 10)
  const ramp = context.getImageData(0, 0, 256, 10)
  blend(ramp.data, Float32Array.from({ length: 2560 }, (_, i) => (i % 256) / 255), pair)
  context.putImageData(ramp, 0, 0)
  return [bar, element('div', { class: 'scale' }, element('span', {}, '0'), element('span', {}, number(Math.max(0, pair.map.top))))]
}

/** The value of the patch under the mouse. */
function read(canvas, caption, pair) {
  const { rows, low, high, cells } = pair.map
  const values = bytes(cells)
  const columns = values.length / rows
  const [left, top, right, bottom] = pair.view
  canvas.onmousemove = event => {
    const column = Math.floor((event.offsetX / canvas.clientWidth - left) / (right - left) * columns)
    const line = Math.floor((event.offsetY / canvas.clientHeight - top) / (bottom - top) * rows)
    const inside = column >= 0 && column < columns && line >= 0 && line < rows
    const value = inside ? number(low + (high - low) * values[line * columns + column] / 255) : '–'
    caption.textContent = `${pair.unit} per patch: ${value} in row ${line + 1}, column ${column + 1}`
  }
  canvas.onmouseleave = () => { caption.textContent = `${pair.unit} per patch` }
}

function words(pair) {
  const cut = pair.truncated ? ', the end of the text was cut' : ''
  const made = element('section', {}, element('h2', {}, (pair.words ? `${pair.unit} per word` : 'text') + cut))
  if (!pair.words) made.append(pair.text)
  for (const [word, value, shade] of pair.words ?? []) {
    const ground = `background:rgba(${pair.doubtful.includes('text') ? '150,150,150' : '245,132,60'},${shade})`
    made.append(element('span', { class: 'word' }, element('b', { style: ground }, word), element('small', {}, value)))
  }
  if (pair.special) made.append(element('br'), element('small', {}, `on no word: ${pair.special}`))
  return made
}

function scores(pair) {
  const known = Object.entries(pair.metrics).filter(([, value]) => value !== null)
  if (!known.length) return []
  const made = known.map(([name, value]) => element('span', { class: 'word' }, element('b', {}, number(value)), element('small', {}, name)))
  return [element('section', {}, element('h2', {}, 'scores'), ...made)]
}

function curves(pair) {
  const named = Object.entries(pair.history).filter(([, values]) => values.length > 1)
  if (!named.length) return []
  const made = named.map(([name, values]) => {
    const finite = values.filter(value => value !== null)
    const [low, high] = [Math.min(...finite), Math.max(...finite)]
    const points = values.map((value, i) => value === null ? '' :
      `${190 * i / (values.length - 1)},${60 - 56 * (value - low) / (high - low || 1)}`).join(' ')
    const drawing = element('div')
    drawing.innerHTML = `<svg viewBox="0 0 190 64"><polyline points="${points}" fill="none" stroke="#d9661f" stroke-width="2"/></svg>`
    return element('figure', { class: 'curve' },
      element('figcaption', {}, name, element('br'), `${number(values[0])} → ${number(values.at(-1))}`), drawing)
  })
  return [element('h2', {}, 'the fit, step by step'), element('div', { class: 'side' }, ...made)]
}

function masks(pair) {
  if (!pair.frames.length) return []
  const last = pair.frames.length - 1
  const image = element('img', { src: pair.frames[last], alt: 'the masks after a step' })
  const slider = element('input', { type: 'range', min: 0, max: last, value: last, 'aria-label': 'step' })
  slider.oninput = () => { image.src = pair.frames[slider.value] }
  return [element('h2', {}, 'the masks, step by step'), slider, element('br'), image]
}

// What a person does.

for (const [name, value] of Object.entries(orders)) {
  if (!value || data.pairs.some(pair => value(pair) !== null)) sort.append(element('option', {}, name))
}
verdict.append(element('option', { value: '' }, 'all'))
for (const found of [...Object.keys(data.sentences), 'bad']) {
  const count = data.pairs.filter(pair => pair.verdict === found).length
  if (count) verdict.append(element('option', { value: found }, `${found.replaceAll('_', ' ')} (${count})`))
}
filter.oninput = sort.onchange = verdict.onchange = choose
exact.onchange = () => { choose(); if (chosen) show(chosen) }
turn.onclick = () => { down = !down; choose() }
list.onscroll = drawRows
window.onresize = drawRows
list.onkeydown = event => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key]
  if (!step || !shown.length) return
  event.preventDefault()
  const place = Math.min(shown.length - 1, Math.max(0, shown.indexOf(chosen) + step))
  const above = place * ROW
  list.scrollTop = Math.min(above, Math.max(list.scrollTop, above + ROW - list.clientHeight))
  drawRows()
  show(shown[place])
}
choose()
const linked = decodeURIComponent(location.hash.slice(1))
const opened = data.pairs.find(pair => pair.id === linked) ?? shown[0]
if (opened) show(opened)
requestAnimationFrame(() => { document.documentElement.dataset.ready = Math.round(performance.now()) })
